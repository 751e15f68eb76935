"""Videos: where they are, what their containers say, and which frames are looked at."""

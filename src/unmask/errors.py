"""The exception whose message is meant for the user."""


class UnmaskError(Exception):
    """A problem the user can fix.

    The message is one line that names the thing, the place and the remedy. The command line prints
    it without a traceback. Any other exception is a bug and keeps its traceback.
    """


def reason(error: Exception) -> str:
    """Return what an error says in one line, without FFmpeg's path, which differs by machine."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

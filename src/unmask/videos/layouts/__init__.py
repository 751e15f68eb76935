"""Layouts: how published collections, and people, arrange videos and say which are FAKE.

A layout is a module of this package, and adding one takes a file. `unmask import` calls it by its
name. It has

- `SIGNS`: what it is recognised by, for the message that no layout fits,
- `is_layout(root)`: whether a folder or file has these signs,
- `read(root)`: yields a `ListedVideo` for each video, and an `Unplaced` for each file that is none.
"""

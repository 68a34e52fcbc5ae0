"""Where tiles lie and which waits for which: integers only.

May import: the ground floor and storage.box.
"""

"""Where tiles lie, which waits for which, and their names in a journal: integers only.

May import: the ground floor, storage.box, and the journal's reader.
"""

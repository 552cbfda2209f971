"""Directories of this machine whose files call functions.

paths     which directories may be watched, and opening them without following anybody's link
tree      inotify on one directory and all below it: what has changed, what there is
index     what is known of its files, in the database, written in the commit that puts the events
watch     one directory: what it takes for a finished file, and what changed since it was last known
watcher   the dispatcher's thread that has them all; one dispatcher has a directory at a time, by a lease
"""

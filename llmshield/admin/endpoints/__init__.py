"""Handlers of the admin API, one file for each subject; a new file here is served, described and documented."""

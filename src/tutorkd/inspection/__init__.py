"""What ``tutorkd inspect`` does: the tutor of a run at work on sentences, on a page."""

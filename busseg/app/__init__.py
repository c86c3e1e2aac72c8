"""The web page: an image in, class and lesion out, all on this machine."""

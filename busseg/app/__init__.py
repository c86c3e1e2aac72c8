"""The web page: upload an image, see its class and lesion. Everything runs on this machine."""

"""The networks: plain `keras.Model`s on any Keras backend. They read no files."""

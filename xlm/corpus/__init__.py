"""Records of text in, from files of several formats; tables out."""

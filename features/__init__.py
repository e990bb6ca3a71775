"""Images as rows of features of a frozen, pretrained backbone."""

"""nnU-Net v2 as a segmenter: its folders, commands and plans, and the trainer that it finds."""

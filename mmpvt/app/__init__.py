"""A page on which a model is tried. Nothing is imported here: gradio is an extra."""

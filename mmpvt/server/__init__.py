"""A trained model behind HTTP, for programs. Nothing is imported here: FastAPI is an extra.

``bodies`` takes an image in, ``batching`` runs the model on those of one size, ``answers`` encodes
what it found, ``service`` has the routes, ``running`` starts and stops it.
"""

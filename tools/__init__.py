"""Tools of development: how the shipped model and datasets are made. No part of the running app."""

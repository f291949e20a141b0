"""A trained model that predicts what it is given: sequences of the data, or a user's own pictures and actions."""

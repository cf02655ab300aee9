"""What samples are worth: distances between features, and the gate before publishing."""

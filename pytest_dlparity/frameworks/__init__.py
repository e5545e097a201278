"""The narrow waist: everything that knows a framework."""

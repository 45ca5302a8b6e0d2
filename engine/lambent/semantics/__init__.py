"""Pure: what next, given what just happened. No IO, no async, no clock, no chance, no logging."""

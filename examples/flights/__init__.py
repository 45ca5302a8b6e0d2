"""A year of departures from New York through all four models (`make run`)."""

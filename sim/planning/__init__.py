"""From settings and a declared number of users to a mechanism and its epsilon; reads no data."""

"""`userdp bench`: a private round beside plain training and beside other frameworks."""

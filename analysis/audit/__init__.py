"""The command `userdp audit`: measures mechanisms with canary users, beside their claims."""

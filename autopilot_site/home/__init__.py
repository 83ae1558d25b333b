"""The admin's home page: is all well, what comes next, what needs somebody."""

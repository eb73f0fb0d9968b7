"""What people see of the log: read as raw JSON, because `towline status` must answer before models could load."""

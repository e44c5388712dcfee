"""What `upgrade` converges the database to, beside the migrations: application tables, functions, partitions, privileges."""

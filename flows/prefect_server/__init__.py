"""Operating a Prefect server: settings, start and stop, provisioning, health."""

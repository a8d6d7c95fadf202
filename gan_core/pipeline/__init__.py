"""What runs and when: plan, pre-flight checks, runner, run record."""

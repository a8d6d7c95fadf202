"""The report: what a run found, as numbers (`summary.json`), as figures and as one page
(`report.html`).
"""

"""Pictures and pages of a finished run, from its evidence: report.html, contact sheets, gallery.html."""

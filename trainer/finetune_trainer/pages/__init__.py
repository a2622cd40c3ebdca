"""Pages that people read: one run's report.html, and the comparison of several runs.

Everything comes from a run's folder, so a page can be made again at any time, here or elsewhere. All that stands in
those files is taken for hostile text: templates escape it, and the page's policy lets no script run but its own.
"""

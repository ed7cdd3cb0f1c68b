"""The demo model: a tiny trained pipeline that draws one coloured shape on a background."""

"""Graph passes, one a file; `pipelines` lists which run in which order for which job.

Some jobs prepare the graph first (`preparing/`). The planning passes (`planning/`) read it, do the algebra on
parameters and note in each `Layer` which ops it absorbs and with which weights and bias it goes on; they change
nothing. Then the performing passes (`performing/`) rewire. `workspace` is what they hand to one another.
"""

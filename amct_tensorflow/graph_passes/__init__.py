"""Graph passes, one a file; `pipelines` lists which run in which order for which job.

First the planning passes: they read the graph, do the algebra on parameters and note in each `Layer` which ops
it absorbs and with which weights and bias it goes on. They change nothing. Then the performing passes rewire.
"""

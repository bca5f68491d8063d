"""The command line of amct_tensorflow.

It is a package of its own so that help, version and usage errors need no TensorFlow: `main`, `dispatch`, `streams`,
`commands`, `usage`, `values` and `startup` import nothing of amct_tensorflow; the other modules are imported for a job
only.
"""

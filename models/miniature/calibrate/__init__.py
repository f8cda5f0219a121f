"""Makes adapters on the miniature whose faults are known, for the calibration of its policy.

`make calibrate` trains and evaluates them (hours on two cores; it resumes), labels them with the
oracle, and chooses the limits of the default policy with `atelier calibrate`.
"""

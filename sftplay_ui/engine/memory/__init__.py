"""Will it fit, what to change, how long: answered from config.json and the settings, without torch.

`shapes` reads a model's architecture, `terms` holds the closed form, `estimate` the answer with its
verdict, `advice` the changes that save most, `forecast` the time. Measuring is left to workers.
"""

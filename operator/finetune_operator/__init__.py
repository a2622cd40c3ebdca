"""The operator: carries FineTuneJobs through their life on a Kubernetes cluster."""

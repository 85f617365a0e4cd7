"""The Helm chart `dial-gateway`, and the program that makes it of the kustomize overlay `shared`."""

"""What is deployed beside the gateway. No part of the package: nothing here is installed with it."""

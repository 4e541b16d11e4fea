"""The artifact tree in any S3-compatible store: push, pull, verify, immutable segments, a lock by conditional write.

boto3 is imported only when a store is opened; without the extra `remote` every module here still imports.
"""

"""The bucket service: objects by the COS and S3 protocols, in a process of its own (`python -m server.buckets`, user `hearth`).

    request ─▶ call ─▶ signing ─▶ access ─▶ operations ─▶ body ─▶ files    data, fsynced
               host → bucket      scope                        └▶ objects  one transaction: row and its events
                                                               └▶ files    what it replaced goes after the commit

Names in the database, bytes in files whose names say nothing: no key ever becomes a path.
"""

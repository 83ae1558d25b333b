"""Who is told, and of what: rules over the health, a queue in the database, senders.

`rules` says which conditions hold now; `watch` compares that with the open alerts and
queues a message for each that begins or ends; `sending` gets the messages to the targets.
All of it runs in a process of its own beside each cluster, and not at all where nobody is
to be told. Firing neither waits for it nor knows it.
"""

"""
SFTP, and nothing of copies: packets to and from a server, over a stream that somebody else opens.

From the bottom up; a module imports from those above it here, never from those below:

==============  ====================================================================
protocol        the numbers, and the values that travel
encode, decode  requests to packets; replies to values
packets         the stream from the server, cut into packets
reply           the reply to one request, and the inbox of the copy that asked
time_limits     how long a copy may take, and stand still
usage           what copies hold of something that there is little of
handles         the files and folders that are open on the server
server_facts    what copies learn about a server
session         one session: whose reply is whose, what is sent when, how it ends
client          one copy's use of it: batches of requests, replies as they come
==============  ====================================================================
"""

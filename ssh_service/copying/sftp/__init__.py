"""
The SFTP protocol, independent of copies: packets to and from a server, over any channel.

From the bottom up; a module imports from those above it here, never from those below:

==============  ====================================================================
protocol        constants, and the values that packets carry
encode, decode  requests to packets; replies to values
packets         splits the stream from the server into packets
reply           the reply to one request, and the inbox that receives it
time_limits     the time that a copy may take
usage           how much of a scarce resource each copy holds
handles         the files and folders that are open on the server
server_facts    the facts that copies have learned about a server
session         one session: dispatches replies, sends requests, ends
client          one copy's use of a session: requests in batches, replies as they arrive
==============  ====================================================================
"""

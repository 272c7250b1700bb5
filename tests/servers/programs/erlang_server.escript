#!/usr/bin/env escript
%% Erlang's SSH daemon, whose commands are Erlang's, not a shell's: erlang_server.escript PORT FOLDER.
main([Port, Folder]) ->
    ok = filelib:ensure_dir(filename:join([Folder, "system", "key"])),
    {ok, _} = file:copy(filename:join(Folder, "host_key"),
                        filename:join([Folder, "system", "ssh_host_ed25519_key"])),
    {ok, _} = application:ensure_all_started(ssh),
    {ok, _} = ssh:daemon({127, 0, 0, 1}, list_to_integer(Port), [
        {system_dir, filename:join(Folder, "system")},
        {user_dir, Folder},
        {auth_methods, "publickey"},
        {subsystems, [ssh_sftpd:subsystem_spec([{root, "/"}])]},
        {tcpip_tunnel_in, true},
        {tcpip_tunnel_out, true}]),
    receive stop -> ok end.

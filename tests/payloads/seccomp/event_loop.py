"""asyncio: streams, child processes, executors. Python 3 only."""

import asyncio


def run():
    async def main():
        async def answer(reader, writer):
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\n")
        assert await reader.readline() == b"LINE\n"
        writer.close()
        server.close()
        child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        assert (await child.communicate(b"through"))[0] == b"through"
        shell = await asyncio.create_subprocess_shell("exit 4")
        assert await shell.wait() == 4
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, sum, (2, 3)) == 5
        assert loop.time() > 0
        await asyncio.sleep(0.001)
        assert (await loop.getaddrinfo("localhost", 80))[0]
        return True

    return asyncio.run(main())

// The same call as session.ping, served by Go's own net/rpc/jsonrpc: jsonrpc SOCKET
package main

import (
	"log"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
)

type Session struct{}

type Nothing struct{}

func (*Session) Ping(_ Nothing, _ *Nothing) error { return nil }

func main() {
	if err := rpc.Register(new(Session)); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		peer, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go jsonrpc.ServeConn(peer)
	}
}

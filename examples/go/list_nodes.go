// Lists the fleet's nodes over mutual TLS:
//
//	list_nodes 127.0.0.1:7102 .run/tls [operator]
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "example.com/stubs/gen/crosslogic/registry/v1"
)

const service = "registry.service.crosslogic.internal"

// identity is whom we trust, who we are, and the service's name, which is expected whatever address it has.
func identity(folder, caller string) (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(folder, "ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("no certificate in %s/ca.pem", folder)
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(folder, caller+".pem"), filepath.Join(folder, caller+".key"))
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{own}, ServerName: service, MinVersion: tls.VersionTLS13,
	}, nil
}

// page asks for one page of nodes. trailer has our own code of an error, which says more than gRPC's status.
func page(registry pb.RegistryServiceClient, token string, trailer *metadata.MD) (*pb.ListNodesResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return registry.ListNodes(ctx, &pb.ListNodesRequest{PageSize: 100, PageToken: token}, grpc.Trailer(trailer))
}

func run(target, folder, caller string) error {
	config, err := identity(folder, caller)
	if err != nil {
		return err
	}
	connection, err := grpc.Dial(target, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer connection.Close()
	registry := pb.NewRegistryServiceClient(connection)
	for token := ""; ; {
		var trailer metadata.MD
		answer, err := page(registry, token, &trailer)
		if err != nil {
			return fmt.Errorf("%s %s", status.Code(err), strings.Join(trailer.Get("crosslogic-code"), ""))
		}
		for _, node := range answer.Nodes {
			fmt.Println(strings.Join(append([]string{node.Id, node.Status.String()}, node.GetFacts().GetModels()...), " "))
		}
		if token = answer.NextPageToken; token == "" {
			return nil
		}
	}
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: list_nodes TARGET TLS_FOLDER [CALLER]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], append(os.Args[3:], "operator")[0]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

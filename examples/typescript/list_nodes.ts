// Lists the fleet's nodes over mutual TLS:
//
//     node dist/list_nodes.js 127.0.0.1:7102 .run/tls [operator]
import { readFileSync } from "node:fs";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { type Node, NodeStatus, RegistryService } from "./gen/crosslogic/registry/v1/registry_pb.js";

const [target, tls, caller = "operator"] = process.argv.slice(2);
const file = (name: string): Buffer => readFileSync(`${tls}/${name}`);
const transport = createGrpcTransport({
  baseUrl: `https://${target}`,
  // Whom we trust, who we are, and the service's name, which is expected whatever address it has.
  nodeOptions: {
    ca: file("ca.pem"),
    key: file(`${caller}.key`),
    cert: file(`${caller}.pem`),
    servername: "registry.service.crosslogic.internal",
    minVersion: "TLSv1.3",
  },
});
const registry = createClient(RegistryService, transport);

/** Every node, page after page. */
async function* nodes(): AsyncGenerator<Node> {
  let pageToken = "";
  do {
    const page = await registry.listNodes({ pageSize: 100, pageToken }, { timeoutMs: 5000 });
    yield* page.nodes;
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
}

try {
  for await (const node of nodes()) {
    console.log(node.id, `NODE_STATUS_${NodeStatus[node.status]}`, ...(node.facts?.models ?? []));
  }
} catch (thrown) {
  // Our own code, which says more than gRPC's status (docs/errors.md).
  const error = ConnectError.from(thrown);
  const status = Code[error.code].replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
  console.error(status, error.metadata.get("crosslogic-code") ?? "");
  process.exitCode = 1;
}

// Reads a JSON array of custom resources from standard input; prints a JSON array of their problems: "" where there is
// none. The packages' validators know what values may be, but let unknown fields pass; their types do not.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const here = dirname(fileURLToPath(import.meta.url));
const packages = {
  "cert-manager.io": "@kubernetes-models/cert-manager",
  "external-secrets.io": "@kubernetes-models/external-secrets",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
  "argoproj.io": "@kubernetes-models/argo-cd",
};

function moduleOf(object) {
  const [group] = object.apiVersion.split("/");
  return packages[group] && `${packages[group]}/${object.apiVersion}`;
}

async function wrongValue(object) {
  const name = moduleOf(object);
  try {
    const Kind = name && (await import(name))[object.kind];
    if (!Kind) return `no schema for ${object.apiVersion} ${object.kind}`;
    new Kind(object).validate();
    return "";
  } catch (error) {
    return error.message.split("\n")[0];
  }
}

// One file an object; its literal is checked against the kind's interface, unknown fields included.
function wrongTypes(objects) {
  const folder = mkdtempSync(join(here, "check-"));
  try {
    const files = objects.map((object, number) => {
      const file = join(folder, `${number}.ts`);
      const type = `I${object.kind}`;
      writeFileSync(file, `import type { ${type} } from "${moduleOf(object)}";\nexport const it: ${type} = ${JSON.stringify(object)};\n`);
      return file;
    });
    const options = { noEmit: true, strict: true, skipLibCheck: true, types: [], module: ts.ModuleKind.NodeNext };
    const found = ts.getPreEmitDiagnostics(ts.createProgram(files, { ...options, moduleResolution: ts.ModuleResolutionKind.NodeNext }));
    const problems = objects.map(() => "");
    for (const each of found) {
      const number = files.indexOf(each.file?.fileName);
      problems[Math.max(0, number)] ||= ts.flattenDiagnosticMessageText(each.messageText, " ");
    }
    return problems;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

let text = "";
for await (const data of process.stdin) text += data;
const objects = JSON.parse(text);
const values = [];
for (const object of objects) values.push(await wrongValue(object));
const typed = objects.filter((_, number) => !values[number]);
const types = wrongTypes(typed);
process.stdout.write(JSON.stringify(values.map((problem) => problem || types.shift())));

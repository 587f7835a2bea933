# synchronous and asynchronous calls, streams, watchers, workers
# served: node
cat >"$scratch/a.js" <<'JS'
const fs = require('fs'), path = require('path');
fs.mkdirSync('d');
for (let i = 0; i < 200; i++) fs.writeFileSync('d/f' + i, 'x'.repeat(i * 10));
let sum = 0;
for (const f of fs.readdirSync('d').sort()) sum += fs.statSync('d/' + f).size + fs.readFileSync('d/' + f).length;
console.log(sum);
const walk = (dir) => fs.readdirSync(dir, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))
  .map((e) => [e, path.join(dir, e.name)])
  .reduce((n, [e, p]) => n + (e.isDirectory() ? walk(p) : fs.lstatSync(p).size), 0);
console.log(walk(process.env.project));
(async () => {
  let n = 0;
  for await (const e of await fs.promises.opendir('d')) n += (await fs.promises.stat('d/' + e.name)).size;
  console.log(n);
  const all = await Promise.all(fs.readdirSync('d').map((f) => fs.promises.readFile('d/' + f)));
  console.log(all.reduce((a, b) => a + b.length, 0));
  fs.createReadStream('d/f199').pipe(fs.createWriteStream('copy')).on('finish', () => {
    console.log(fs.readFileSync('copy', 'utf8').length);
    require('child_process').execSync('cp -r d e');
    console.log(fs.readdirSync('e').length);
    fs.rmSync('d', { recursive: true });
    console.log(fs.existsSync('d/f1'), fs.existsSync('e/f1'));
  });
})();
JS
node "$scratch/a.js"

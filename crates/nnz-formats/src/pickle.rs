//! Python's pickles, read and never executed: a stack machine that builds plain values, knows the few names PyTorch uses to
//! describe a tensor, and stops at any other.

use std::collections::HashMap;

/// Index of a node.
pub(crate) type Id = u32;

/// A value of a pickle. Nodes refer to each other by index, so that nesting costs no stack.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Bytes,
    /// Tuples, lists and sets.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module.name`
    Global(String),
    /// A reference to data outside the pickle.
    Persistent(Id),
    /// A call of a known name, not executed.
    Call(Id, Id),
}

/// All values of one pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    nodes: Vec<Node>,
    pub root: Id,
    /// Length in bytes.
    pub bytes: usize,
}

impl Pickle {
    /// Number of nodes.
    pub fn len(&self) -> Id {
        self.nodes.len() as Id
    }

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(t) => Some(t),
            _ => None,
        }
    }

    pub fn size(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Int(i) => usize::try_from(*i).ok(),
            _ => None,
        }
    }

    pub fn list(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::List(l) => Some(l),
            _ => None,
        }
    }

    pub fn global(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Global(g) => Some(g),
            _ => None,
        }
    }
}

/// Whether a name only describes data.
fn known(global: &str) -> bool {
    let storage = |name: &str| name.ends_with("Storage") && name.chars().all(char::is_alphanumeric);
    let dtypes = ["float", "half", "double", "bfloat16", "int", "uint", "long", "short", "bool", "complex"];
    match global {
        "collections.OrderedDict" | "torch.Size" | "torch.device" | "torch.serialization._get_layout" => true,
        "torch._utils._rebuild_tensor"
        | "torch._utils._rebuild_tensor_v2"
        | "torch._utils._rebuild_tensor_v3"
        | "torch._utils._rebuild_sparse_tensor"
        | "torch._utils._rebuild_parameter" => true,
        _ => global
            .strip_prefix("torch.storage.")
            .or(global.strip_prefix("torch."))
            .is_some_and(|n| storage(n) || (!n.contains('.') && dtypes.iter().any(|d| n.starts_with(d)))),
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

type Step<T> = Result<T, String>;

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let (bytes, at) = (self.bytes, self.at);
        let part = at.checked_add(n).and_then(|end| bytes.get(at..end));
        let part = part.ok_or_else(|| format!("the pickle ends at byte {at}, where {n} more are needed"))?;
        self.at += n;
        Ok(part)
    }

    fn number(&mut self, n: usize) -> Step<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b)))
    }

    fn text(&mut self, n: u64) -> Step<String> {
        let at = self.at;
        let bytes = self.take(usize::try_from(n).unwrap_or(usize::MAX))?;
        Ok(std::str::from_utf8(bytes).map_err(|_| format!("the text at byte {at} is no UTF-8"))?.to_owned())
    }

    fn line(&mut self) -> Step<String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&b| b == b'\n').ok_or("the pickle ends in the middle of a name")?;
        let line = self.text(end as u64)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, node: Node) -> Step<()> {
        let id = Id::try_from(self.nodes.len()).map_err(|_| "more than 2^32 values")?;
        self.nodes.push(node);
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => Ok(self.stack.pop().unwrap_or_default()),
            false => Err("takes a value that is not there".into()),
        }
    }

    fn marked(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("takes values down to a mark that is not there")?;
        Ok(self.stack.split_off(mark))
    }

    fn last(&self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| "looks at a value that is not there".into())
    }

    fn tuple(&mut self, n: usize) -> Step<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Step<Vec<_>>>()?;
        items.reverse();
        self.push(Node::List(items))
    }

    fn extend(&mut self, items: Vec<Id>) -> Step<()> {
        match &mut self.nodes[self.stack.last().copied().ok_or("appends to nothing")? as usize] {
            Node::List(list) => list.extend(items),
            _ => return Err("appends to what is no list".into()),
        }
        Ok(())
    }

    fn insert(&mut self, items: Vec<Id>) -> Step<()> {
        let to = self.last()?;
        let pairs = items.chunks_exact(2).map(|p| (p[0], p[1]));
        // An OrderedDict that was made by a call.
        if let Node::Call(f, _) = self.nodes[to as usize] {
            match &self.nodes[f as usize] {
                Node::Global(g) if g == "collections.OrderedDict" => self.nodes[to as usize] = Node::Dict(Vec::new()),
                _ => return Err("sets items of what is no dictionary".into()),
            }
        }
        match &mut self.nodes[to as usize] {
            Node::Dict(dict) => dict.extend(pairs),
            _ => return Err("sets items of what is no dictionary".into()),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Step<()> {
        let global = format!("{}.{name}", module.replace("__builtin__", "builtins"));
        match known(&global) {
            true => self.push(Node::Global(global)),
            false if global.starts_with("torch._utils._rebuild_") => Err(format!(
                "a tensor of a kind that is not read (`{global}`); save it as a plain one, such as `tensor.dequantize()`"
            )),
            false => Err(format!(
                "names `{global}`, which is no part of a tensor and would be executed by Python; nothing was. Save \
                 `model.state_dict()` instead of the whole object"
            )),
        }
    }

    /// Entries of a dictionary that is called with a list of pairs, as in Python 2.
    fn pairs(&self, arguments: Id) -> Vec<(Id, Id)> {
        let list = |id: Id| match &self.nodes[id as usize] {
            Node::List(items) => items.as_slice(),
            _ => &[],
        };
        let pairs = list(arguments).first().map_or(&[][..], |&first| list(first));
        pairs.iter().filter_map(|&pair| <[Id; 2]>::try_from(list(pair)).ok().map(|[k, v]| (k, v))).collect()
    }

    fn remember(&mut self, key: u32) -> Step<()> {
        let last = self.last()?;
        self.memo.insert(key, last);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Step<()> {
        let id = *self.memo.get(&key).ok_or_else(|| format!("recalls number {key}, which was never stored"))?;
        self.stack.push(id);
        Ok(())
    }

    /// Executes one operation; returns the root after the last.
    fn step(&mut self) -> Step<Option<Id>> {
        let op = self.take(1)?[0];
        match op {
            0x80 => self.take(1).map(drop)?,
            0x95 => self.take(8).map(drop)?,
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.pop().map(drop)?,
            b'1' => self.marked().map(drop)?,
            b'2' => {
                let last = self.last()?;
                self.stack.push(last);
            }
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool)?,
            0x89 => self.push(Node::Bool)?,
            b'J' => {
                let n = self.number(4)? as u32 as i32;
                self.push(Node::Int(n.into()))?;
            }
            b'K' => {
                let n = self.number(1)?;
                self.push(Node::Int(n as i64))?;
            }
            b'M' => {
                let n = self.number(2)?;
                self.push(Node::Int(n as i64))?;
            }
            0x8a | 0x8b => {
                let len = if op == 0x8a { self.number(1)? } else { self.number(4)? } as usize;
                let bytes = self.take(len)?;
                // PyTorch's magic number has ten bytes; truncated numbers are only ever compared with it.
                let sign = bytes.last().is_some_and(|b| b & 0x80 != 0);
                let start = if sign { -1i64 } else { 0 };
                let n = bytes
                    .iter()
                    .take(8)
                    .enumerate()
                    .fold(start, |n, (i, &b)| n & !(0xff << (8 * i)) | (i64::from(b) << (8 * i)));
                self.push(Node::Int(n))?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Node::Float)?;
            }
            b'X' | 0x8c | 0x8d | b'T' | b'U' => {
                let n = self.number(match op {
                    0x8d => 8,
                    b'X' | b'T' => 4,
                    _ => 1,
                })?;
                let text = self.text(n)?;
                self.push(Node::Text(text))?;
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                let n = self.number(match op {
                    b'B' => 4,
                    b'C' => 1,
                    _ => 8,
                })?;
                self.take(usize::try_from(n).unwrap_or(usize::MAX))?;
                self.push(Node::Bytes)?;
            }
            b')' | b']' | 0x8f => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
            b't' | b'l' | 0x91 => {
                let items = self.marked()?;
                self.push(Node::List(items))?;
            }
            b'd' => {
                let items = self.marked()?;
                self.push(Node::Dict(items.chunks_exact(2).map(|p| (p[0], p[1])).collect()))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.last()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.last()?;
                self.extend(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(vec![key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.insert(items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id: Id| match &self.nodes[id as usize] {
                    Node::Text(t) => Ok(t.clone()),
                    _ => Err("a name that is no text".to_string()),
                };
                let (module, name) = (text(module)?, text(name)?);
                self.global(&module, &name)?;
            }
            b'R' | 0x81 => {
                let (arguments, f) = (self.pop()?, self.pop()?);
                match &self.nodes[f as usize] {
                    Node::Global(g) if g == "collections.OrderedDict" => {
                        let pairs = self.pairs(arguments);
                        self.push(Node::Dict(pairs))?;
                    }
                    Node::Global(_) => self.push(Node::Call(f, arguments))?,
                    _ => return Err("calls what is no name; nothing was executed".into()),
                }
            }
            // State of an object: OrderedDicts carry `_metadata`, which holds no tensors.
            b'b' => self.pop().map(drop)?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            b'q' => {
                let key = self.number(1)? as u32;
                self.remember(key)?;
            }
            b'r' => {
                let key = self.number(4)? as u32;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = self.number(1)? as u32;
                self.recall(key)?;
            }
            b'j' => {
                let key = self.number(4)? as u32;
                self.recall(key)?;
            }
            other => {
                return Err(format!(
                    "operation {other:#04x}, which PyTorch does not write; save with `torch.save(model.state_dict(), …)`"
                ));
            }
        }
        Ok(None)
    }
}

/// Reads one pickle from the start of `bytes`; the error names the offending byte.
pub(crate) fn read(bytes: &[u8]) -> Step<Pickle> {
    let (nodes, stack, marks, memo) = (Vec::new(), Vec::new(), Vec::new(), HashMap::new());
    let mut machine = Machine { bytes, at: 0, nodes, stack, marks, memo };
    loop {
        let at = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(root)) => return Ok(Pickle { nodes: machine.nodes, root, bytes: machine.at }),
            Err(why) => return Err(format!("at byte {at} of the pickle: {why}")),
        }
    }
}

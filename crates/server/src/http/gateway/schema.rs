//! The messages of the API as JSON names them, from the descriptors of `crates/proto`.

use std::collections::HashMap;
use std::sync::LazyLock;

use metastore_proto::{DESCRIPTORS, Message as _};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// All messages and enumerations, found by their places in the lists.
#[derive(Debug, Default)]
pub struct Schema {
    messages: Vec<Message>,
    enums: Vec<Enum>,
    places: HashMap<String, Place>,
}

/// A message.
#[derive(Debug, Default)]
pub struct Message {
    /// The full name: `etcdserverpb.PutRequest`.
    name: String,
    /// By number.
    fields: Vec<Field>,
    /// Places of fields, by both names.
    names: HashMap<String, usize>,
    /// The names of the oneofs.
    oneofs: Vec<String>,
}

/// A field.
#[derive(Debug)]
pub struct Field {
    pub number: u64,
    pub kind: Kind,
    pub repeated: bool,
    /// The place of its oneof in its message.
    pub oneof: Option<usize>,
    /// The name in lowerCamelCase, which errors show.
    pub json_name: String,
    /// The name in the .proto file, as it begins a member of an object: `"prev_kv":`.
    pub key: String,
}

/// An enumeration.
#[derive(Debug, Default)]
pub struct Enum {
    names: HashMap<String, i32>,
    numbers: HashMap<i32, String>,
}

/// The content of a field; enumerations and messages by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Text,
    Bytes,
    Enum(usize),
    Message(usize),
    /// A kind that no message of the gateway has.
    Other,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Message(usize),
    Enum(usize),
}

impl Kind {
    /// The name in errors.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Int32 => "int32",
            Kind::Int64 => "int64",
            Kind::Uint32 => "uint32",
            Kind::Uint64 => "uint64",
            Kind::Text => "string",
            Kind::Bytes => "bytes",
            Kind::Enum(_) => "enum",
            Kind::Message(_) => "message",
            Kind::Other => "other",
        }
    }
}

impl Schema {
    /// The schema of `crates/proto`.
    pub fn get() -> &'static Schema {
        static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::read);
        &SCHEMA
    }

    fn read() -> Schema {
        let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors are those of this build");
        let mut schema = Schema::default();
        let mut found = Vec::new();
        for file in &files.file {
            for message in &file.message_type {
                schema.name(file.package(), message, &mut found);
            }
            for kind in &file.enum_type {
                schema.add_enum(file.package(), kind);
            }
        }
        for (name, descriptor) in found {
            let message = schema.message_of(name, descriptor);
            schema.messages.push(message);
        }
        schema
    }

    /// Gives a message and what it contains their places.
    fn name<'a>(&mut self, scope: &str, message: &'a DescriptorProto, found: &mut Vec<(String, &'a DescriptorProto)>) {
        let name = format!("{scope}.{}", message.name());
        self.places.insert(name.clone(), Place::Message(found.len()));
        found.push((name.clone(), message));
        for nested in &message.nested_type {
            self.name(&name, nested, found);
        }
        for kind in &message.enum_type {
            self.add_enum(&name, kind);
        }
    }

    fn add_enum(&mut self, scope: &str, descriptor: &EnumDescriptorProto) {
        let mut kind = Enum::default();
        for value in &descriptor.value {
            kind.names.insert(value.name().to_owned(), value.number());
            kind.numbers.insert(value.number(), value.name().to_owned());
        }
        self.places.insert(format!("{scope}.{}", descriptor.name()), Place::Enum(self.enums.len()));
        self.enums.push(kind);
    }

    fn message_of(&self, name: String, descriptor: &DescriptorProto) -> Message {
        let mut message = Message { name, ..Message::default() };
        message.oneofs = descriptor.oneof_decl.iter().map(|oneof| oneof.name().to_owned()).collect();
        message.fields = descriptor.field.iter().map(|field| self.field_of(field)).collect();
        message.fields.sort_by_key(|field| field.number);
        for field in &descriptor.field {
            let is_it = |other: &Field| other.number == field.number() as u64;
            let place = message.fields.iter().position(is_it).expect("it was added above");
            message.names.insert(field.json_name().to_owned(), place);
            message.names.insert(field.name().to_owned(), place);
        }
        message
    }

    fn field_of(&self, descriptor: &FieldDescriptorProto) -> Field {
        let kind = match descriptor.r#type() {
            Type::Bool => Kind::Bool,
            Type::Int32 => Kind::Int32,
            Type::Int64 => Kind::Int64,
            Type::Uint32 => Kind::Uint32,
            Type::Uint64 => Kind::Uint64,
            Type::String => Kind::Text,
            Type::Bytes => Kind::Bytes,
            Type::Enum | Type::Message => match self.places.get(descriptor.type_name().trim_start_matches('.')) {
                Some(Place::Message(place)) => Kind::Message(*place),
                Some(Place::Enum(place)) => Kind::Enum(*place),
                None => Kind::Other,
            },
            _ => Kind::Other,
        };
        Field {
            number: descriptor.number() as u64,
            kind,
            repeated: descriptor.label() == Label::Repeated,
            oneof: descriptor.oneof_index.map(|index| index as usize),
            json_name: descriptor.json_name().to_owned(),
            key: format!("\"{}\":", descriptor.name()),
        }
    }

    /// The place of a message, by its full name.
    pub fn find(&self, name: &str) -> Option<usize> {
        match self.places.get(name) {
            Some(Place::Message(place)) => Some(*place),
            _ => None,
        }
    }

    pub fn message(&self, place: usize) -> &Message {
        &self.messages[place]
    }

    pub fn enumeration(&self, place: usize) -> &Enum {
        &self.enums[place]
    }
}

impl Message {
    /// The place of a field and the field, by its name in the .proto file or in lowerCamelCase.
    pub fn named(&self, name: &str) -> Option<(usize, &Field)> {
        let place = *self.names.get(name)?;
        Some((place, &self.fields[place]))
    }

    pub fn numbered(&self, number: u64) -> Option<&Field> {
        let place = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        Some(&self.fields[place])
    }

    /// The full name of a oneof.
    pub fn oneof(&self, place: usize) -> String {
        format!("{}.{}", self.name, self.oneofs[place])
    }

    #[cfg(test)]
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

impl Enum {
    pub fn number(&self, name: &str) -> Option<i32> {
        self.names.get(name).copied()
    }

    pub fn name(&self, number: i32) -> Option<&str> {
        self.numbers.get(&number).map(String::as_str)
    }
}
